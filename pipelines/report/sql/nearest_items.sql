-- one row per shown member and item among the $count nearest to its vector (cosine)
-- Reads `shown_members`, `vectors` (member_id, embedding), `newest_items` and `item_texts`. A
-- vector of zeros has no nearest items.
with
scored as (
    select
        vectors.member_id,
        newest_items.item_id,
        list_cosine_similarity(vectors.embedding, newest_items.embedding) as cosine,
    from vectors
    semi join shown_members on vectors.member_id = shown_members.member_id
    cross join newest_items
),

nearest as (
    select *
    from scored
    where isfinite(cosine)
    qualify row_number() over (partition by member_id order by cosine desc, item_id asc) <= $count
),

nearest_items as (
    select
        nearest.member_id,
        nearest.item_id,
        item_texts.text,
        nearest.cosine,
    from nearest
    left join item_texts on nearest.item_id = item_texts.item_id
    order by nearest.member_id asc, nearest.cosine desc, nearest.item_id asc
)

select * from nearest_items
