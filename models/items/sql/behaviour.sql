-- one row per distinct action that happened, and was known, before $moment
-- Reads `activity_so_far`, whose `number` is the attribute that is asked for, or null. Member by
-- member, oldest first; the order of the rest is fixed too, since the last digits of a fit depend
-- on it.
with
seen as (
    select
        member_id,
        item_id,
        epoch_us(event_timestamp) as timestamp_us,
        list_position($actions, action)::smallint as code,
        -- Copies of one action may carry different attributes, and so signs.
        max(sign) as sign,
        max(number) as number,
    from activity_so_far
    where
        event_timestamp < $moment
        and coalesce(ingested_at < $moment, true)
        and list_contains($actions, action)
    group by all
),

behaviour as (
    select *
    from seen
    order by member_id, timestamp_us, item_id, code
)

select * from behaviour
