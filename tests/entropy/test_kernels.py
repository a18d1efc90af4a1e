from entropy.kernels import forget_stale


def test_kernels_of_other_sources_are_forgotten(tmp_path):
    source, cached, other = (
        tmp_path / "a.py",
        tmp_path / "__pycache__" / "a.f-1.nbi",
        tmp_path / "__pycache__" / "a.pyc",
    )
    source.write_text("x = 1", encoding="utf-8")
    assert forget_stale(tmp_path)
    for file in (cached, other):
        file.write_bytes(b"compiled")
    assert not forget_stale(tmp_path)
    assert cached.exists()
    source.write_text("x = 2", encoding="utf-8")
    assert forget_stale(tmp_path)
    assert not cached.exists()
    assert other.exists()
    cached.write_bytes(b"compiled")
    (tmp_path / "b.py").write_text("y = 1", encoding="utf-8")
    assert forget_stale(tmp_path)
    assert not cached.exists()


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path):
    (tmp_path / "__pycache__").write_text("a file where the folder should be", encoding="utf-8")
    assert not forget_stale(tmp_path)
