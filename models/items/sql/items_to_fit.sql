-- one row per item known before $fit_before, with its last text by then
-- Reads `stg_items`. What members searched for is encoded; the fit is of items only.
with
earlier as (
    select
        item_id,
        text,
        categories,
        available_at,
    from stg_items
    where available_at < $fit_before and kind is distinct from 'search'
),

items_to_fit as (
    select
        text,
        categories,
    from earlier
    qualify row_number() over (partition by item_id order by available_at desc) = 1
    -- The fit's last digits depend on the order of its rows.
    order by item_id
)

select * from items_to_fit
