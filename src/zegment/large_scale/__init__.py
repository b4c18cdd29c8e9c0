"""Millions of pictures: cut into shards, spread over processes by Ray Data, one table per shard.

A shard is some hundred pictures of a listing, or one tar archive. Its table is written by one
process under a temporary name and renamed, so a shard is in the output once or not at all, whoever
dies and however often the work on it is begun. Ray Data hands out the shards, not the pictures:
where each picture is a row of its own, the files that come out depend on which process took which
rows, so no later run could tell from them what is missing.

`listing` finds pictures and archives, `shards` cuts them, `reading` decodes them, `rows` and
`parts` are the tables, `plan` says what a run does, `worker` does it in each process, `cluster` and
`run` are all that know of Ray.
"""
