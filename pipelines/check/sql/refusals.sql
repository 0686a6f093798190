-- one row per reason: how many rows were refused, and what they hold, the most frequent first
-- Reads `quarantine`. Counts of whole numbers and of times tell which unit a column of times has.
with
valued as (
    select
        reason,
        case split_part(reason, ' ', 1)
            when 'member_id' then member_id
            when 'item_id' then item_id
            when 'action' then action
            when 'event_timestamp' then event_timestamp
            when 'ingested_at' then ingested_at
            when 'attribute' then attributes ->> split_part(reason, ' ', 2)
            when 'the' then text  -- the text of <ACTION>
            else line
        end as refused_value,
    from quarantine
),

counted as (
    select
        reason,
        refused_value,
        try_cast(
            regexp_extract(refused_value, '^\s*([+-]?\d+)(\.0*)?\s*$', 1) as bigint
        ) as whole,
        try_cast(refused_value as timestamptz) as as_time,
        count(*) as n_rows,
    from valued
    group by all
)

select
    reason,
    sum(n_rows)::bigint as n_rows,
    coalesce(
        list(refused_value order by n_rows desc, refused_value asc)
        filter (where trim(refused_value) <> ''),
        []
    ) as samples,
    count(refused_value) as n_values,
    count(whole) as n_whole,
    median(whole)::bigint as middle,
    count(as_time) as n_times,
from counted
group by reason
order by n_rows desc, reason asc
