-- one row per measure: how many items are known, how many lack a text, how many are others than
-- when they were marked before. Reads `item_marks` and `marks_before`, which may be empty.
with
counted as (
    select
        count(*) as n_items,
        count(*) filter (where item_marks.is_blank) as n_blank,
        count(marks_before.item_id) as n_both,
        count(*) filter (where item_marks.mark <> marks_before.mark) as n_changed,
    from item_marks
    left join marks_before on item_marks.item_id = marks_before.item_id
),

items as (
    select
        0 as back,
        told.measure,
        '' as part,
        told.kind,
        told.amount::double as amount,
        told.n_rows,
        null::double as error,
    from counted
    cross join lateral (
        values
        ('known items', 'count', counted.n_items, counted.n_items),
        ('empty texts', 'share', counted.n_blank, counted.n_items),
        ('changed items', 'share', counted.n_changed, counted.n_both)
    ) as told (measure, kind, amount, n_rows)
)

select * from items
where n_rows > 0
