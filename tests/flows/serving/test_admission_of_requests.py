"""Which requests are admitted beside others."""

import pytest
from fastapi import HTTPException

from stillwatch.flows.serving.admission import Admission
from stillwatch.settings import ServingSettings


def test_the_sum_of_megapixels_is_limited_but_an_image_alone_is_always_admitted() -> None:
    admission = Admission(ServingSettings(max_megapixels=10))
    with admission.admit(50) as correct:
        correct(60)
        with pytest.raises(HTTPException, match="503: images of 60 megapixels are in progress"):
            admission.admit(0.1).__enter__()
    with admission.admit(5) as correct, admission.admit(4):
        correct(6)
        with pytest.raises(HTTPException, match="this one has about 7"):
            correct(7)
    with admission.admit(10):
        pass


def test_the_number_of_requests_is_limited() -> None:
    admission = Admission(ServingSettings(max_requests=1))
    busy = pytest.raises(HTTPException, match="503: 1 requests are in progress")
    with admission.admit(1), busy:
        admission.admit(1).__enter__()
