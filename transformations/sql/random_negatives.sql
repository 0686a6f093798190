-- one row per positive action and draw: an item that any member acted on that UTC day, and the
-- action's time moved by at most the shift either way, both uniformly
-- Reads `example_actions` and `day_items`.
with
positives as (
    select
        *,
        moment // 86400000000 as day,
        list_position(
            list_sort($names), 'RANDOM_NEGATIVE_FOR_' || list_sort($names)[action_place]
        ) as random_action_place,
        unnest(range(1, $random_negatives + 1)) as draw,
    from example_actions
    where is_positive and n_actions >= $min_actions
),

-- Draws are hashes, so that neither threads nor the order of rows change them.
drawn as (
    select
        *,
        hash(hash(identity, $seed, draw, 'item')) as item_draw,
        (
            hash(hash(identity, $seed, draw, 'time')) % (2 * $shift_us + 1)
        )::bigint - $shift_us as moved_by,
    from positives
),

days as (
    select distinct
        day,
        items_of_day,
    from day_items
),

random_negatives as (
    select
        drawn.member_id,
        drawn.position,
        drawn.draw,
        day_items.item_place,
        drawn.random_action_place as action_place,
        drawn.moment + drawn.moved_by as moment,
        -- It tells of its positive: an input that must not see that one must not see it either.
        greatest(drawn.moment, drawn.known_at) as known_at,
    from drawn
    inner join days on drawn.day = days.day
    inner join
        day_items
        on
            drawn.day = day_items.day
            and 1 + drawn.item_draw % days.items_of_day = day_items.place_of_day
)

select * from random_negatives
