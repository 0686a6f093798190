-- one row per item known before $fit_before, with its last text by then. Reads `stg_items`.
with
known as (
    select
        item_id,
        text,
        categories,
        available_at,
    from stg_items
    where available_at < $fit_before
),

items_to_fit as (
    select
        text,
        categories,
    from known
    qualify row_number() over (partition by item_id order by available_at desc) = 1
    -- The fit depends on the order of its rows, in the last digits.
    order by item_id
)

select * from items_to_fit
