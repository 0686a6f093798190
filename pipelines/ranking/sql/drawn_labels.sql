-- one row per item shown at the first place of an answer that chance filled, and liked, in the
-- order of time
-- Reads `attributed_impressions` and `items_known`. An item that was not known by then is
-- left out. At a later place what stands above is no choice any more: what ranked high would count
-- at fewer places than what ranked low.
-- Of more than $most, a sample: the heavier the likelier, and `weight` is divided by the chance of
-- being in it, so that sums stay the same on average.
with
firsts as (
    select
        request_id,
        min(position) as position,
    from attributed_impressions
    where propensity > 0 and propensity < 1
    group by request_id
),

drawn as (
    select attributed_impressions.*
    from attributed_impressions
    inner join items_known on attributed_impressions.item_id = items_known.item_id
    inner join firsts
        on
            attributed_impressions.request_id = firsts.request_id
            and attributed_impressions.position = firsts.position
    where
        attributed_impressions.sign = 1
        and attributed_impressions.shown_at >= items_known.available_at
),

weighted as (
    select
        *,
        least(1 / propensity, $heaviest) as heavy,
    from drawn
),

chances as (
    select
        *,
        case
            when count(*) over () <= $most then 1.0
            else least($most * heavy / sum(heavy) over (), 1.0)
        end as chance,
    from weighted
)

select
    member_id,
    item_id,
    action,
    sign,
    context,
    shown_at,
    heavy / chance as weight,
from chances
where hash(request_id, position, 17) % 1000000 < 1000000 * chance
order by shown_at, request_id, position
