-- every rule that a row of quarantine breaks, one row each
with
offending as (
    select
        case
            when reason is null then 'reason is not null'
            when source is null then 'source is not null'
            when
                (reason = 'line is malformed') <> (line is not null)
                then 'a malformed line is kept as the line'
        end as rule,
        source,
        member_id,
        item_id,
        action,
        event_timestamp,
        line,
    from quarantine
)

select * from offending
where rule is not null
