-- every rule that a row of items breaks, one row each
with
repeated as (
    select
        'item_id and available_at are unique' as rule,
        item_id,
        available_at,
    from items
    group by item_id, available_at
    having count(*) > 1
),

-- A sum is finite only if each term is; it skips nulls.
broken as (
    select
        case
            when item_id is null then 'item_id is not null'
            when available_at is null then 'available_at is not null'
            when not coalesce(len(embedding) = $dim, false)
                then 'embedding has the configured dimension'
            when not isfinite(list_sum(embedding)) then 'embedding is finite'
            when list_count(embedding) < $dim then 'embedding holds no null'
            when
                not coalesce(
                    encoder = $encoder
                    and encoder_version = $encoder_version
                    and coalesce(encoder_fit, 1) = $encoder_fit,
                    false
                )
                then 'encoder, version and fit are those of the space'
        end as rule,
        item_id,
        available_at,
    from items
),

offending as (
    select * from repeated
    union all
    select * from broken
    where rule is not null
)

select * from offending
