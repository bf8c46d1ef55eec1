"""What the masked LM's card says."""

import pytest
import torch

from secbatch.training import model_card


def test_the_card_names_what_the_model_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_card, "processor", lambda: "Some CPU")
    monkeypatch.setattr(model_card, "device_and_precision", lambda: (torch.device("cpu"), torch.float32))
    assert model_card.machine(2).startswith("Some CPU (2 replicas of one thread")
    monkeypatch.setattr(model_card, "device_and_precision", lambda: (torch.device("cuda"), torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert model_card.machine(2) == "Some GPU (bfloat16)"
