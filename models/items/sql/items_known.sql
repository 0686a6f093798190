-- one row per item known before $moment, with its last text by then
-- Reads `stg_items`. Texts that members searched for only where $with_searches.
with
earlier as (
    select
        item_id,
        text,
        categories,
        available_at,
        min(available_at) over (partition by item_id) as first_at,
    from stg_items
    where available_at < $moment and ($with_searches or kind is distinct from 'search')
),

items_known as (
    select
        item_id,
        text,
        categories,
        epoch_us(first_at) as available_at,
    from earlier
    qualify row_number() over (partition by item_id order by available_at desc) = 1
    -- A fit's last digits depend on the order of its rows.
    order by item_id
)

select * from items_known
