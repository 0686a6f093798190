-- one row per day, column and word: its share; and per day and column, the share of unseen words
-- Reads `drift_days` and `drift_columns`. A word has a share of its own if it is among the 10 most
-- frequent of the days before, with one row in a hundred. A word is unseen on the first of the days
-- that has it: of the older half of the days that says nothing, so they are left out.
with
words as (
    select
        back,
        name,
        word,
        count(*) as n_rows,
    from drift_columns
    where word is not null and name <> 'hour'
    group by all
),

totals as (
    select
        back,
        name,
        sum(n_rows)::bigint as n_rows,
    from words
    group by back, name
),

of_words as (
    select
        name,
        word,
        max(back) as first_back,
        coalesce(sum(n_rows) filter (where back > 0), 0) as n_before,
    from words
    group by name, word
),

frequent as (
    select
        name,
        word,
    from of_words
    qualify
        row_number() over (partition by name order by n_before desc, word asc) <= 10
        and n_before >= 0.01 * sum(n_before) over (partition by name)
        and n_before > 0
),

told as (
    select
        totals.back,
        'value' as measure,
        totals.name || '=' || frequent.word as part,
        coalesce(words.n_rows, 0) as amount,
        totals.n_rows,
    from totals
    inner join frequent on totals.name = frequent.name
    left join words
        on
            totals.back = words.back
            and totals.name = words.name
            and frequent.word = words.word
    union all
    select
        totals.back,
        'unseen values' as measure,
        totals.name as part,
        coalesce(sum(words.n_rows) filter (where of_words.first_back = words.back), 0) as amount,
        totals.n_rows,
    from totals
    inner join words on totals.back = words.back and totals.name = words.name
    inner join of_words on words.name = of_words.name and words.word = of_words.word
    inner join drift_days on totals.back = drift_days.back and drift_days.is_recent
    group by totals.back, totals.name, totals.n_rows
)

select
    back,
    measure,
    part,
    'share' as kind,
    amount::double as amount,
    n_rows,
    null::double as error,
from told
