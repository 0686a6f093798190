-- one row per input row: a profile known at $as_of, or a refused row with the reason
-- Reads `raw_members`; `content` is a struct of the columns of the profile.
with
judged as (
    select
        *,
        case
            when member_id_is_blank then 'member_id is null'
            when member_id is null then 'member_id is not of the id type'
            when available_at is null then 'available_at is null or cannot be read'
            when problem is not null then problem
        end as reason,
    from raw_members
),

judged_members as (
    select
        member_id,
        available_at,
        content,
        case when reason is not null then raw_member_id end as raw_member_id,
        case when reason is not null then raw_available_at end as raw_available_at,
        case when reason is not null then raw_content end as raw_content,
        reason,
        source,
    from judged
    where reason is not null or available_at <= $as_of
)

select * from judged_members
