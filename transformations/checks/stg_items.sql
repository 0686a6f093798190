-- every rule that a row of stg_items breaks, one row each
with
repeated as (
    select
        'item_id and available_at are unique' as rule,
        item_id,
        available_at,
    from stg_items
    group by item_id, available_at
    having count(*) > 1
),

broken as (
    select
        case
            when item_id is null then 'item_id is not null'
            when available_at is null then 'available_at is not null'
            when available_at > $as_of then 'available_at is not after as_of'
        end as rule,
        item_id,
        available_at,
    from stg_items
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select * from offending
