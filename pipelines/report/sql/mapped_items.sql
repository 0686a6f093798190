-- one row per described item: its first category of $category, its actions, since when it is known
-- Reads `item_texts`, `described_items` and `activity`.
with
acted_on as (
    select
        item_id,
        count(*) as n_actions,
    from activity
    group by item_id
),

known as (
    select
        item_id,
        min(available_at) as known_since,
    from described_items
    group by item_id
),

first_categories as (
    select
        item_id,
        list_filter(categories, lambda c: starts_with(c, concat($category, '=')))[1][
            length($category) + 2:
        ] as category,
    from item_texts
),

mapped_items as (
    select
        first_categories.item_id,
        first_categories.category,
        coalesce(acted_on.n_actions, 0) as n_actions,
        known.known_since,
    from first_categories
    inner join known on first_categories.item_id = known.item_id
    left join acted_on on first_categories.item_id = acted_on.item_id
    order by first_categories.item_id
)

select * from mapped_items
