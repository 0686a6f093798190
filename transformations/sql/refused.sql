-- one row per refused input row of this run, with the source's own values
-- Reads `judged`, the rows of stg_activity.sql, and `malformed`, lines that are not valid CSV.
with
refused as (
    select
        raw_member_id as member_id,
        raw_item_id as item_id,
        action,
        raw_event_timestamp as event_timestamp,
        raw_ingested_at as ingested_at,
        raw_attributes as attributes,
        raw_text as text,
        null as line,
        reason,
        source,
    from judged
    where reason is not null
    union all
    select
        null as member_id,
        null as item_id,
        null as action,
        null as event_timestamp,
        null as ingested_at,
        null as attributes,
        null as text,
        line,
        'line is malformed' as reason,
        source,
    from malformed
)

select * from refused
