-- one row per item_id and available_at: what the item's vector is made from
-- Reads `judged`, the rows of judged_items.sql. Of rows that differ only in content, the smallest
-- is kept (of ends the latest), the same in every run. The fields of `content` become columns.
with
chosen as (
    select
        item_id,
        available_at,
        max(available_until) as available_until,
        min(content) as content,
    from judged
    where reason is null
    group by item_id, available_at
),

stg_items as (
    select
        item_id,
        available_at,
        available_until,
        unnest(content),  -- noqa: AL03
    from chosen
    order by item_id, available_at
)

select * from stg_items
