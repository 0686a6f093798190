-- every rule that a row of one period of activity breaks, one row each; reads `activity_of_period`
with
repeated as (
    select
        'member_id, item_id, action, event_timestamp are unique' as rule,
        member_id,
        item_id,
        action,
        event_timestamp,
    from activity_of_period
    group by member_id, item_id, action, event_timestamp
    having count(*) > 1
),

broken as (
    select
        case
            when member_id is null or item_id is null then 'ids are not null'
            when action is null then 'action is not null'
            when event_timestamp is null then 'event_timestamp is not null'
            when event_timestamp < timestamptz '1970-01-01' then 'event_timestamp is since 1970'
            when date_trunc($period, event_timestamp::date) <> $start
                then 'event_timestamp lies in the period'
            when
                $buckets > 1 and bucket_of(member_id, $buckets) <> $bucket
                then 'member_id lies in the bucket'
        end as rule,
        member_id,
        item_id,
        action,
        event_timestamp,
    from activity_of_period
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select * from offending
