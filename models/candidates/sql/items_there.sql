-- one row per item that may be recommended at $as_of: known by then, not over, not a search
-- Reads `stg_items`. An item's last version by then says what it is, and when it ends.
with
known as (
    select
        item_id,
        kind,
        available_at,
        available_until,
        min(available_at) over (partition by item_id) as first_at,
    from stg_items
    where available_at <= $as_of
),

newest as (
    select *
    from known
    qualify row_number() over (partition by item_id order by available_at desc) = 1
),

items_there as (
    select
        item_id,
        first_at,
        kind,
    from newest
    where coalesce(available_until > $as_of, true) and kind is distinct from 'search'
    order by item_id
)

select * from items_there
