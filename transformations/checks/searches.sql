-- every rule that a row of searches breaks, one row each
with
repeated as (
    select
        'item_id is unique' as rule,
        item_id,
        any_value(text) as text,
    from searches
    group by item_id
    having count(*) > 1
),

broken as (
    select
        case
            when item_id is null then 'item_id is not null'
            when coalesce(text, '') = '' then 'text is not empty'
            when available_at is null then 'available_at is not null'
        end as rule,
        item_id,
        text,
    from searches
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select * from offending
