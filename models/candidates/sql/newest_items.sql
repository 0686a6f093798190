-- one row per item that became known since $start, the newest first
-- Reads `items_there`. The score falls from 1 at $as_of to 0 at $start.
with
newest_items as (
    select
        item_id,
        ((epoch_us(first_at) - epoch_us($start)) / (epoch_us($as_of) - epoch_us($start)))::float
            as score,
    from items_there
    where first_at >= $start
    order by score desc, item_id asc
    limit $count
)

select * from newest_items
