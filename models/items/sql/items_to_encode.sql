-- one row per item_id and available_at that has no vector yet
-- Reads `stg_items` and `items`. Where the source holds the vectors, $place is which of them, from
-- 1 on, and $fit_before is null; else the other way round.
with
usable as (
    select
        * exclude (available_at, vectors),
        list_extract(vectors, $place) as vector,
        available_at as known_at,
        -- A vector cannot be available before the fit that makes it.
        greatest(available_at, $fit_before) as available_at,
    from stg_items
),

newest as (
    select * exclude (known_at)
    from usable
    qualify row_number() over (partition by item_id, available_at order by known_at desc) = 1
),

items_to_encode as (
    select *
    from newest
    where
        not exists (
            select 1
            from items
            where newest.item_id = items.item_id and newest.available_at = items.available_at
        )
    order by item_id, available_at
)

select * from items_to_encode -- noqa: AM04
