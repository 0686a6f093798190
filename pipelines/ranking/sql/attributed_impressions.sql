-- one row per item shown in [$since, $until): what came of it within $attribution, as of $until
-- Reads `impressions` and `activity` (with `dwell`). Nothing that happened, or was ingested, at or
-- after $until is seen. An action belongs to the newest impression of its member and item that is
-- not after it. `sign` is that of an impression's first action with one; 0 if none came in time;
-- null while one may still come.
with
shown as (
    select
        *,
        shown_at + $attribution <= $until as is_over,
    from impressions
    where shown_at >= $since and shown_at < $until and item_id is not null
),

-- of several at one time the last one, so that each action finds one impression
moments as (
    select
        member_id,
        item_id,
        shown_at,
        request_id,
        position,
    from shown
    qualify row_number() over (
        partition by member_id, item_id, shown_at
        order by request_id desc, position desc
    ) = 1
),

signed as (
    select
        member_id,
        item_id,
        action,
        event_timestamp,
        sign,
        dwell,
    from activity
    where
        sign <> 0
        and event_timestamp >= $since
        and event_timestamp < $until
        and coalesce(ingested_at < $until, true)
),

caused as (
    select
        moments.request_id,
        moments.position,
        moments.shown_at,
        signed.action,
        signed.event_timestamp,
        signed.sign,
        signed.dwell,
    from signed
    asof inner join moments
        on
            signed.member_id = moments.member_id
            and signed.item_id = moments.item_id
            and signed.event_timestamp >= moments.shown_at
),

firsts as (
    select *
    from caused
    where event_timestamp < shown_at + $attribution
    qualify row_number() over (
        partition by request_id, position
        order by event_timestamp, action
    ) = 1
)

select
    shown.request_id,
    shown.member_id,
    shown.item_id,
    shown.position,
    shown.score,
    shown.propensity,
    shown.path,
    shown.ranker,
    shown.versions,
    shown.release,
    shown.arm,
    shown.context,
    shown.surface,
    shown.shown_at,
    shown.is_over,
    firsts.action,
    firsts.event_timestamp as acted_at,
    firsts.dwell,
    coalesce(firsts.sign, case when shown.is_over then 0 end)::tinyint as sign,
from shown
left join firsts
    on
        shown.request_id = firsts.request_id
        and shown.position = firsts.position
