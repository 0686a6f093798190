-- one row: what the values of one column look like
-- Reads `column_values`: the column's value of each row, as text. A whole number is one that an
-- int64 gives back as it was written, so 007 is none; 42.0 is how floats write 42.
with
given as (
    select trim(value) as text
    from column_values
    where trim(value) <> ''
),

judged as (
    select
        text,
        case
            when regexp_full_match(text, '(0|-?[1-9]\d*)(\.0*)?')
                then try_cast(regexp_replace(text, '\.0*$', '') as bigint)
        end as number,
        try_cast(text as timestamptz) as read_at,
        regexp_matches(text, ':\d\d(\.\d+)?\s*(Z|z|UTC|[+-]\d\d(:?\d\d)?)$') as has_zone,
    from given
)

select
    count(*) as given,
    count(distinct text) as n_distinct,
    count(number) as whole,
    approx_quantile(number, 0.5) as middle,
    count(read_at) filter (where number is null) as times,
    count(*) filter (where read_at is not null and has_zone) as zoned,
    coalesce(avg(length(text)), 0) as characters,
    coalesce(avg(length(text) - length(replace(text, ' ', '')) + 1), 0) as words,
    coalesce(avg(contains(text, '|')::integer), 0) as joined,
    min(text) as example,
from judged
