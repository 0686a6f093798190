-- one row per item that may be ranked: since when it is known
-- Reads `stg_items` and `other_items`.
with
candidates as (
    select stg_items.*
    from stg_items
    anti join other_items on stg_items.item_id = other_items.item_id
),

known_items as (
    select
        item_id,
        min(available_at) as available_at,
    from candidates
    group by item_id
    order by item_id
)

select * from known_items
