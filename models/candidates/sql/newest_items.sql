-- one row: the items that became known since $start, the newest first
-- Reads `items_there`. The score falls from 1 at $as_of to 0 at $start.
with
best as (
    select
        item_id,
        ((epoch_us(first_at) - epoch_us($start)) / (epoch_us($as_of) - epoch_us($start)))::float
            as score,
    from items_there
    where first_at >= $start
    order by score desc, item_id asc
    limit $count
),

newest_items as (
    select
        'all' as segment,
        list(item_id order by score desc, item_id asc) as item_ids,
        list(score order by score desc, item_id asc) as scores,
    from best
    having count(*) > 0
)

select * from newest_items
