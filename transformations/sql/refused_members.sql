-- one row per refused row of the members source in this run, with the source's own values
-- Reads `judged`, the rows of judged_members.sql, and `malformed`, lines that are not valid CSV.
with
refused as (
    select
        raw_member_id as member_id,
        null::varchar as item_id,
        null::varchar as action,
        raw_available_at as event_timestamp,
        null::varchar as ingested_at,
        raw_content as attributes,
        null::varchar as text,
        null::varchar as line,
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
