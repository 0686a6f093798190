-- one row per positive action and draw: an item that any member acted on that UTC day, and the
-- action's timestamp moved by at most the shift either way, both uniform
-- Reads `example_actions` and `day_items`. Needs macros.sql.
with
positives as (
    select
        *,
        day_of(event_us) as day,
        list_position(
            list_sort($names), 'RANDOM_NEGATIVE_FOR_' || list_sort($names)[action_index]
        ) as random_action_index,
        unnest(range(1, $random_negatives + 1)) as draw,
    from example_actions
    where is_positive and n_actions >= $min_actions
),

-- Draws are hashes, so they depend on neither threads nor row order.
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

-- Materialized, so that the next join is by both columns: joined by the day alone, a day with half
-- of all actions would meet all of its items once per action.
placed as materialized (
    select
        drawn.*,
        1 + drawn.item_draw % days.items_of_day as index_of_day,
    from drawn
    inner join days on drawn.day = days.day
),

random_negatives as (
    select
        placed.member_id,
        placed.position,
        placed.draw,
        day_items.item_index,
        placed.random_action_index as action_index,
        placed.event_us + placed.moved_by as event_us,
        -- It reveals its positive, so an input may see it only once it may see the positive.
        greatest(placed.event_us, placed.known_at) as known_at,
    from placed
    inner join
        day_items
        on placed.day = day_items.day and placed.index_of_day = day_items.index_of_day
)

select * from random_negatives
