-- one row per day, column and measure: how much its values differ from those of the days before
-- The population stability index, and of words the effect size of a chi-square test of the day
-- against the others (Cohen's w, https://en.wikipedia.org/wiki/Effect_size).
-- Reads `drift_columns`. A number's bins are the tenths of the days before, a word's the 30 most
-- frequent words and one for the others. A day before is compared with the rest of them. Half a row
-- is added to each bin, so that an empty one has a logarithm.
with
edges as (
    select
        name,
        quantile_disc(number, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) as edges,
    from drift_columns
    where back > 0 and number is not null
    group by name
),

frequent as (
    select
        name,
        word,
    from drift_columns
    where back > 0 and word is not null
    group by name, word
    qualify row_number() over (partition by name order by count(*) desc, word asc) <= 30
),

binned as (
    select
        drift_columns.back,
        drift_columns.name,
        case
            when drift_columns.number is not null
                then len(
                    list_filter(edges.edges, lambda x: x < drift_columns.number)  -- noqa: RF02
                )::varchar
            when frequent.word is not null then 'is ' || frequent.word
            else 'other'
        end as bin,
        count(*) as n_rows,
    from drift_columns
    left join edges on drift_columns.name = edges.name
    left join frequent
        on drift_columns.name = frequent.name and drift_columns.word = frequent.word
    where drift_columns.number is not null or drift_columns.word is not null
    group by all
),

bins as (
    select
        name,
        bin,
        coalesce(sum(n_rows) filter (where back > 0), 0) as n_before,
    from binned
    group by name, bin
),

days as (
    select
        back,
        name,
        sum(n_rows) as n_day,
    from binned
    group by back, name
),

counts as (
    select
        days.back,
        days.name,
        days.n_day,
        coalesce(binned.n_rows, 0) as n_own,
        bins.n_before - if(days.back > 0, coalesce(binned.n_rows, 0), 0) as n_other,
        count(*) over (partition by days.back, days.name) as n_bins,
        bins.bin = 'other' or starts_with(bins.bin, 'is ') as is_word,
    from days
    inner join bins on days.name = bins.name
    left join binned
        on days.back = binned.back and days.name = binned.name and bins.bin = binned.bin
),

shares as (
    select
        back,
        name,
        n_day,
        is_word,
        (n_own + 0.5) / (n_day + 0.5 * n_bins) as own,
        (n_other + 0.5)
        / (sum(n_other) over (partition by back, name) + 0.5 * n_bins) as other,
    from counts
),

sums as (
    select
        back,
        name,
        max(n_day)::bigint as n_rows,
        sum((own - other) * ln(own / other)) as stability,
        sqrt(sum((own - other) ** 2 / other)) as effect,
        bool_and(is_word) as is_word,
    from shares
    group by back, name
),

told as (
    select
        back,
        name,
        'stability' as measure,
        stability as amount,
        n_rows,
    from sums
    union all
    select
        back,
        name,
        'chi-square' as measure,
        effect as amount,
        n_rows,
    from sums
    where is_word
)

select
    back,
    measure,
    name as part,
    'distance' as kind,
    amount,
    n_rows,
    null::double as error,
from told
