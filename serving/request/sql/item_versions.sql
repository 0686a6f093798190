-- one row per item and version, an item's versions adjacent and oldest first
-- Reads `items`: the rows of the item parts.
with
item_versions as (
    select
        item_id,
        embedding,
        epoch_us(available_at) as available_at,
    from items
    order by item_id, available_at
)

select * from item_versions
