-- one row per item known at $as_of: its first vector
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

first_items as (
    select *
    from available
    qualify row_number() over (partition by item_id order by available_at) = 1
)

select * from first_items
