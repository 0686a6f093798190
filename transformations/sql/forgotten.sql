-- one row per id of `named` that was forgotten: its HMAC-SHA-256 (RFC 2104) is in `tombstones`
-- $inner_pad and $outer_pad are the key, padded to a block, xor 0x36 and 0x5c.
with
ids as (
    select distinct member_id from named
    where member_id is not null
),

hashed as (
    select
        member_id,
        sha256($outer_pad::blob || unhex(sha256($inner_pad::blob || encode(member_id)))) as digest,
    from ids
),

forgotten as (
    select hashed.member_id from hashed
    semi join tombstones on hashed.digest = tombstones.digest
)

select * from forgotten
