-- one row per item of a request whose attribution window is over, in the order of time
-- Reads `attributed_impressions` and `items_known`. An item that was not known by then is left out.
-- Of more than $most requests, those of a sample of members. The first row of a request, its own,
-- is the best that came of it: a positive action, else a negative one, else the first position.
with
known as (
    select attributed_impressions.*
    from attributed_impressions
    inner join items_known on attributed_impressions.item_id = items_known.item_id
    where
        attributed_impressions.is_over
        and attributed_impressions.shown_at >= items_known.available_at
),

counted as (
    select
        *,
        count(distinct request_id) over () as requests,
    from known
),

sampled as (
    select * exclude (requests)
    from counted
    where hash(member_id, 17) % 1000000 < 1000000.0 * $most / requests
),

ordered as (
    select
        *,
        dense_rank() over (order by shown_at, request_id) - 1 as label,
        row_number() over (
            partition by request_id
            order by case sign when 1 then 0 when -1 then 1 else 2 end, position
        ) as place,
    from sampled
)

select
    label,
    place = 1 as own,
    member_id,
    item_id,
    position,
    propensity,
    coalesce(action, '') as action,
    sign,
    context,
    shown_at,
from ordered
order by label, place
