-- one row per member of a sample of $size: its vector, and the commonest category of its items
-- Reads `sequences`, `vectors` (member_id, embedding) and `item_texts`. $category is the column of
-- the categories; if null, the label is the commonest action. The same $seed, the same sample.
with
present as (
    select
        sequences.member_id,
        sequences.item_ids,
        sequences.actions,
        vectors.embedding,
    from sequences
    inner join vectors on sequences.member_id = vectors.member_id
    -- Vectors of zeros (no such action) are left out.
    where sequences.n_actions > 0 and list_dot_product(vectors.embedding, vectors.embedding) > 0
),

sampled as (
    select *
    from present
    order by md5(concat_ws(' ', $seed, member_id))
    limit $size
),

acted as (
    select
        member_id,
        unnest(item_ids) as item_id,
        unnest(actions) as action,
    from sampled
),

described as (
    select
        acted.member_id,
        acted.action,
        item_texts.categories,
    from acted
    left join item_texts on acted.item_id = item_texts.item_id
),

labels as (
    select
        member_id,
        unnest(
            case
                when $category is null then [action]
                else list_filter(categories, lambda c: starts_with(c, concat($category, '=')))
            end
        ) as label,
    from described
),

counted as (
    select
        member_id,
        label[instr(label, '=') + 1:] as label,
        count(*) as times,
    from labels
    group by all
),

commonest as (
    select
        member_id,
        label,
    from counted
    qualify row_number() over (partition by member_id order by times desc, label asc) = 1
),

member_map as (
    select
        sampled.member_id,
        sampled.embedding,
        commonest.label,
    from sampled
    left join commonest on sampled.member_id = commonest.member_id
    order by sampled.member_id
)

select * from member_map
