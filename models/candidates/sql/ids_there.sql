-- one row per item that may be recommended and is of one of $kinds; of any kind where that is null
-- Reads `items_there`. Where kinds are asked for, an item without one is none of them.
with
ids_there as (
    select item_id
    from items_there
    where $kinds is null or list_contains($kinds, kind)
    order by item_id
)

select * from ids_there
