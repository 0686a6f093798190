-- one row per item of newest_items: its vector and, where it has any, newest text and kind
-- Reads `newest_items` and `texts`.
with
newest_texts as (
    select
        item_id,
        arg_max(text, available_at) as text,
        arg_max(kind, available_at) as kind,
    from texts
    group by item_id
),

described as (
    select
        newest_items.item_id,
        newest_items.embedding,
        coalesce(newest_texts.text, '') as text,
        newest_texts.kind,
    from newest_items
    left join newest_texts on newest_items.item_id = newest_texts.item_id
    order by newest_items.item_id
)

select * from described
