-- every rule that a row of member_embeddings breaks, one row each
-- $dims are the dimensions of the vectors. Also reads member_sequences, the snapshots that the
-- vectors were made from, in the same order. The column as_of is that of the partition that a row
-- lies in, of_member holds the row's member columns, dims the dimension of each of its vectors;
-- is_not_finite says whether one of their numbers is not finite.
with
gathered as (
    select
        *,
        list_sum([*columns(lambda c: list_contains($counts, c))]) as n_counted,
    from member_embeddings
),

embedded as (
    select
        member_id,
        event_timestamp,
        created_timestamp,
        of_member,
        n_actions,
        n_counted,
        model_version,
        dims,
        is_not_finite,
    from gathered
),

-- Embedding keeps the snapshot's order, so rows match by position.
rows_of_view as (
    select
        embedded.*,
        snapshot.as_of,
        snapshot.member_id as snapshot_member_id,
        snapshot.of_member as snapshot_of_member,
    from embedded
    positional join member_sequences as snapshot
),

broken as (
    select
        case
            when not coalesce(member_id = snapshot_member_id, false)
                then 'members are those of the snapshot, in its order'
            when not coalesce(event_timestamp = as_of, false) then 'event_timestamp is as_of'
            when not coalesce(created_timestamp >= as_of, false)
                then 'created_timestamp is not before as_of'
            when dims <> $dims then 'vectors have their dimensions'
            when is_not_finite then 'vectors are finite'
            when not coalesce(of_member = snapshot_of_member, false)
                then 'member columns are those of the snapshot'
            when not coalesce(n_counted = n_actions, false) then 'counts add up to n_actions'
            when coalesce(model_version, '') = '' then 'model_version is not empty'
        end as rule,
        as_of,
        coalesce(member_id, snapshot_member_id) as member_id,
    from rows_of_view
),

repeated as (
    select
        'member_id is unique' as rule,
        as_of,
        member_id,
    from rows_of_view
    where member_id is not null
    group by as_of, member_id
    having count(*) > 1
),

offending as (
    select * from broken
    where rule is not null
    union all
    select * from repeated
)

select * from offending
