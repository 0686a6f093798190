-- one row per input row: typed, with day and bucket; or refused, with the reason and the raw values
-- Reads `raw_events`: each column raw (raw_…) and typed (null where it cannot be read). `search` is
-- null where the action has an item, else the id and text that stand in its place, or the problem.
with
judged as (
    select
        *,
        case
            when member_id_is_blank then 'member_id is null'
            when member_id is null then 'member_id is not of the id type'
            when search['problem'] is not null then search['problem']
            when search is null and item_id_is_blank then 'item_id is null'
            when search is null and item_id is null then 'item_id is not of the id type'
            when search is null and item_id_is_reserved then 'item_id is reserved for texts'
            when list_contains($actions, raw_action::varchar) is not true then 'action is unknown'
            when event_timestamp is null then 'event_timestamp cannot be read'
            when event_timestamp < $earliest then 'event_timestamp is before events.earliest'
            when event_timestamp > $latest then 'event_timestamp is after events.latest'
            when event_timestamp > $as_of + interval 1 day then 'event_timestamp is in the future'
            when ingested_at is null and not ingested_at_is_blank then 'ingested_at cannot be read'
            when ingested_at < $earliest then 'ingested_at is before events.earliest'
            when ingested_at > $latest then 'ingested_at is after events.latest'
            when attribute_problem is not null then attribute_problem
        end as reason,
    from raw_events
),

stg_activity as (
    select
        member_id,
        case when search is null then item_id else search['item_id'] end as item_id,
        raw_action::varchar as action,
        event_timestamp,
        ingested_at,
        attributes,
        search['text'] as search_text,
        case when reason is null then event_timestamp::date end as day,
        case
            when reason is null and $buckets > 1 then bucket_of(member_id, $buckets)
            when reason is null then 0
        end as bucket,
        reason,
        -- An id in its one spelling, so that a row that is judged again has the same.
        case
            when reason is not null then coalesce(member_id::varchar, raw_member_id::varchar)
        end as raw_member_id,
        case
            when reason is not null then coalesce(item_id::varchar, raw_item_id::varchar)
        end as raw_item_id,
        case when reason is not null then raw_event_timestamp::varchar end as raw_event_timestamp,
        case when reason is not null then raw_ingested_at::varchar end as raw_ingested_at,
        case when reason is not null then raw_attributes end as raw_attributes,
        case when reason is not null then raw_text end as raw_text,
        source,
    from judged
    order by bucket, day
)

select * from stg_activity
