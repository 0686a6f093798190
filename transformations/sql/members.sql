-- one row per member_id and available_at: what is known of the member since then
-- Reads `judged`, the rows of judged_members.sql. Of rows that differ only in content, the smallest
-- is kept, the same in every run. The fields of `content` become columns.
with
chosen as (
    select
        member_id,
        available_at,
        min(content) as content,
    from judged
    where reason is null
    group by member_id, available_at
),

members as (
    select
        member_id,
        available_at,
        unnest(content),  -- noqa: AL03
    from chosen
    order by member_id, available_at
)

select * from members
