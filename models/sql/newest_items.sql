-- one row per item: its newest vector that was available at $as_of
-- Reads `items`.
with
available as (
    select
        item_id,
        embedding,
        available_at,
    from items
    where available_at <= $as_of
),

newest_items as (
    select *
    from available
    qualify row_number() over (partition by item_id order by available_at desc) = 1
)

select * from newest_items
