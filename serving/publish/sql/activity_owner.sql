-- one row per Feast project of this online store: the workspace that its rows belong to
create table if not exists activity_owner (
    project text primary key,
    workspace text not null,
    name text not null
)
