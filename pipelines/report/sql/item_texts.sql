-- one row per item known at $as_of: its newest text, followed by the values of its categories
-- Reads `described_items`, whose categories are tokens such as genres=Drama.
with
known as (
    select
        item_id,
        text,
        categories,
    from described_items
    where available_at <= $as_of
    qualify row_number() over (partition by item_id order by available_at desc) = 1
),

item_texts as (
    select
        item_id,
        categories,
        nullif(
            concat_ws(
                ' · ',
                nullif(text, ''),
                nullif(
                    array_to_string(
                        list_transform(categories, lambda c: c[instr(c, '=') + 1:]), ', '
                    ),
                    ''
                )
            ),
            ''
        ) as text,
    from known
)

select * from item_texts
