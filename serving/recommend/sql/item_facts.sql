-- one row per item known at $as_of: what its last version by then says, the newest items first
-- Reads `stg_items`.
with
known as (
    select
        item_id,
        kind,
        available_until,
        text,
        categories,
        available_at,
        min(available_at) over (partition by item_id) as first_at,
    from stg_items
    where available_at <= $as_of
),

item_facts as (
    select
        item_id,
        kind,
        available_until,
        categories,
        left(trim(regexp_replace(coalesce(text, ''), '\s+', ' ', 'g')), 80) as title,
    from known
    qualify row_number() over (partition by item_id order by available_at desc) = 1
    order by first_at desc, item_id asc
)

select * from item_facts
