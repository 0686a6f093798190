-- one row per input row: an item known at $as_of, or a refused row with the reason
-- Reads `raw_items`; `content` is a struct of what the item's vector is made from.
with
judged as (
    select
        *,
        case
            when item_id_is_blank then 'item_id is null'
            when item_id is null then 'item_id is not of the id type'
            when item_id_is_reserved then 'item_id is reserved for texts'
            when kind = 'search' then 'kind is search, which is that of texts'
            when available_at is null then 'available_at is null or cannot be read'
            when available_until is null and not available_until_is_blank
                then 'available_until cannot be read'
            when has_content is not true then 'embedding is no list of dim finite numbers'
        end as reason,
    from raw_items
),

judged_items as (
    select
        item_id,
        available_at,
        available_until,
        kind,
        content,
        reason,
    from judged
    where reason is not null or available_at <= $as_of
)

select * from judged_items
