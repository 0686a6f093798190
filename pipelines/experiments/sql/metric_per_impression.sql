-- one row per member: what came of its impressions within $within, and how many it had
-- Reads `experiment_members`, `exposures` and `metric_events`. An action belongs to the newest
-- impression of its member and item that is not after it, in whichever arm, as for rankers
-- (attributed_impressions.sql); of an impression at most $most counts.
with
-- of several at one time one is enough: an action finds one impression
moments as (
    select
        member_id,
        item_id,
        shown_at,
        bool_or(is_treatment is not null) as is_counted,
    from exposures
    group by member_id, item_id, shown_at
),

caused as (
    select
        moments.member_id,
        moments.item_id,
        moments.shown_at,
        metric_events.event_timestamp,
        metric_events.amount,
    from metric_events
    asof inner join moments
        on
            metric_events.member_id = moments.member_id
            and metric_events.item_id = moments.item_id
            and metric_events.event_timestamp >= moments.shown_at
    where moments.is_counted
),

of_impressions as (
    select
        member_id,
        least(sum(amount), $most) as amount,
    from caused
    where event_timestamp < shown_at + $within
    group by member_id, item_id, shown_at
),

of_members as (
    select
        member_id,
        sum(amount) as amount,
    from of_impressions
    group by member_id
)

select
    experiment_members.member_id,
    coalesce(of_members.amount, 0)::double as amount,
    experiment_members.n_impressions::double as size,
from experiment_members
left join of_members on experiment_members.member_id = of_members.member_id
