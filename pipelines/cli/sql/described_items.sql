-- one row per item known by $as_of: its newest vector and, where it has any, text and kind
-- Reads `items` and `texts`.
with
vectors as (
    select
        item_id,
        arg_max(embedding, available_at) as embedding,
    from items
    where available_at <= $as_of
    group by item_id
),

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
        vectors.item_id,
        vectors.embedding,
        coalesce(newest_texts.text, '') as text,
        newest_texts.kind,
    from vectors
    left join newest_texts on vectors.item_id = newest_texts.item_id
    order by vectors.item_id
)

select * from described
