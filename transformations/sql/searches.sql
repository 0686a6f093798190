-- one row per text that stood in place of an item: its id, and when it was first seen
-- Reads `searches`, those of earlier runs, and `stg_activity`.
with
old_and_new as (
    select
        item_id,
        text,
        available_at,
    from searches
    union all
    select
        item_id,
        search_text as text,
        event_timestamp as available_at,
    from stg_activity
    where search_text is not null
),

merged as (
    select
        item_id,
        min(text) as text,
        min(available_at) as available_at,
    from old_and_new
    group by item_id
    order by item_id
)

select * from merged
