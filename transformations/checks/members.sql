-- every rule that a row of members breaks, one row each
with
repeated as (
    select
        'member_id and available_at are unique' as rule,
        member_id,
        available_at,
    from members
    group by member_id, available_at
    having count(*) > 1
),

broken as (
    select
        case
            when member_id is null then 'member_id is not null'
            when available_at is null then 'available_at is not null'
            when available_at > $as_of then 'available_at is not after as_of'
        end as rule,
        member_id,
        available_at,
    from members
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select * from offending
