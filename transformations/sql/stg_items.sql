-- one row per item_id and available_at: what the item's vector is made from
-- Reads `judged`, the rows of judged_items.sql, and `judged_searches`, whose texts are items too.
-- Of rows that differ only in content, the smallest is kept (of ends the latest), the same in every
-- run. The fields of `content` become columns.
with
usable as (
    select
        item_id,
        available_at,
        available_until,
        kind,
        content,
    from judged
    where reason is null
    union all
    select
        item_id,
        available_at,
        null as available_until,
        'search' as kind,
        content,
    from judged_searches
),

chosen as (
    select
        item_id,
        available_at,
        max(available_until) as available_until,
        min(kind) as kind,
        min(content) as content,
    from usable
    group by item_id, available_at
),

stg_items as (
    select
        item_id,
        available_at,
        available_until,
        kind,
        unnest(content),  -- noqa: AL03
    from chosen
    order by item_id, available_at
)

select * from stg_items
