-- one row per member and as_of: its last $length actions in the window, oldest first; a member of
-- the previous snapshot with no action left in the window has empty lists
-- Reads `packed_sequences`, which applies the rule, and `item_indexes`. Needs macros.sql.
with
names as (
    select
        coalesce(list(item_id order by item_index), []) as items,
        list_sort($actions) as action_names,
    from item_indexes
),

packed as (
    select
        packed_sequences.*,
        names.*,
    from packed_sequences
    cross join names
),

unpacked as (
    select
        member_id,
        list_transform(
            packed_actions, lambda a: items[item_of(a)]
        ) as item_ids,
        list_transform(packed_actions, lambda a: action_names[action_of(a)]) as actions,
        list_transform(
            packed_actions, lambda a: timestamp_of(a)
        ) as event_timestamps,
        last_action_at,
    from packed
),

member_sequences as (
    select
        member_id,
        $as_of as event_timestamp,
        $readable_from as created_timestamp,
        item_ids,
        actions,
        event_timestamps,
        len(item_ids) as n_actions,
        -- One count per name in $actions, in that order; Python names the columns n_<action>.
        list_transform(
            $actions, lambda name: len(list_filter(actions, lambda action: action = name))
        ) as n_each_action,
        last_action_at,
    from unpacked
)

select * from member_sequences
