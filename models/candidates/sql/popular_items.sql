-- one row per item that members lately acted on positively, with how many did; the best first
-- Reads `activity_so_far`, and `items_there`: the items that may be recommended at $as_of. Of equal
-- items the one with the smaller id comes first, so that a rerun gives the same list.
with
acted_on as (
    select
        item_id,
        count(distinct member_id)::float as score,
    from activity_so_far
    where
        event_timestamp >= $start
        and event_timestamp < $as_of
        and coalesce(ingested_at < $as_of, true)
        and sign > 0
    group by item_id
),

popular_items as (
    select
        items_there.item_id,
        acted_on.score,
    from items_there
    inner join acted_on on items_there.item_id = acted_on.item_id
    order by acted_on.score desc, items_there.item_id asc
    limit $count
)

select * from popular_items
